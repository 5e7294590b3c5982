"""What headers often hold, for deflate to refer to: part of the format, never changed, only followed by another."""

DICTIONARY = b""
