"""Pages: what a file says about where the lines of a page are, read from and written to the formats that people use."""
