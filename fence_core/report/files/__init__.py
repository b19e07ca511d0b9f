"""What a run leaves for people and programs to read later: one JSON file, and text that is made of it alone. Pure."""
