"""The configuration: its defaults, and from a configuration to objects."""
