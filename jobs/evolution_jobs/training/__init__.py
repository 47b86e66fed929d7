"""What SFT and DPO share around the trainers of trl."""
