"""Dictionary formats, one reader a file, each recognised by the files it finds."""
