"""A small web shop whose slow work is done by djtasks."""
