"""Published experiments, one a file: settings, published figures and where they stand."""
