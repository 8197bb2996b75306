"""What figures draw, and how it looks."""
