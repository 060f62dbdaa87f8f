"""The command language: text to commands and back."""
