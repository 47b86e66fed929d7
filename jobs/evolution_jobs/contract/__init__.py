"""What a stage is told, what it leaves behind, and how both are named. Light imports only: the operator uses it too."""
