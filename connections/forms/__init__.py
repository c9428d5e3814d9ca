"""Forms validate user input. They neither save anything nor call Microsoft."""
