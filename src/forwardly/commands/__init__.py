"""The commands, one a file; ``forwardly.cli`` puts them together."""
