"""What the stages wrote, read and checked."""
