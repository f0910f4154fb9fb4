"""The only rooms that speak to outside services: keys, server-side code, error translation."""
