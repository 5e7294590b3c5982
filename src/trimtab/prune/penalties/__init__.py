"""Penalties, one file each: a term for the loss that makes weights or units small. `contract` says what they share."""
