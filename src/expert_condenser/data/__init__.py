"""What a row is: formats, files and splits, chat templates, tokens. It needs no model."""
