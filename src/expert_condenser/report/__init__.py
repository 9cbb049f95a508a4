"""Pictures and tables of results; nothing is computed here."""
