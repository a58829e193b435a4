"""How records become a verdict. Pure: records in, checks out; no torch, no files but in `binding`."""
