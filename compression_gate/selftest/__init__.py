"""The gate held to its own numbers: exact rates, replays, and mutations that must not pass."""
