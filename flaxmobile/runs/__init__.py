"""A run: its folder, what it says of itself, its data, its report, and what is made of it again."""
