"""Forms validate user input. They save nothing and never call Microsoft."""
