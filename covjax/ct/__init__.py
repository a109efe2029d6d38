"""CT as files have it: archives, tables, volumes, geometry in mm, windows, lungs. No JAX."""
