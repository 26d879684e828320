"""A checkpoint -> production: exported files, a server."""
