"""Forms validate what people type. They save nothing and never call Microsoft."""
