"""What training and reading cost."""
