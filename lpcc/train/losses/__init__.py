"""What a student is to learn from its teacher, and how far it is from it."""
