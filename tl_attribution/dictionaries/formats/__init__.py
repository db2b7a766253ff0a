"""Dictionary formats, one module per format, each recognized by its files."""
