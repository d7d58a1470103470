"""Ways of compressing, one file each, behind one protocol."""
