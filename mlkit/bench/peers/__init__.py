"""What people would pick instead of mlkit: each a short program that trains as a user of that library writes it."""
