"""What must run: stages and cells with content keys, as pure data."""
