"""CT as files have it: archives, tables, volumes, geometry in mm, windows, lungs, pictures. No JAX."""
