"""What people look at: pages, pictures, plots and tables. No check and no run."""
