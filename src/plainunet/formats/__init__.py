"""Bytes -> arrays: images, masks and annotation files, one at a time, as they are stored."""
