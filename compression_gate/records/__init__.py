"""What flows from stage to stage. No torch here: ``check`` reads these records."""
