"""What a stage gets, what it leaves, and how both are named. Only light imports: the operator uses it too."""
