"""One search from its settings to the exported winner."""
