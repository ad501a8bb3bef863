words = ["tree", "sun", "river", "sea", "mountain"]

# Sort the words by length.

# Print the first of the sorted words.

# Make a list "lengths" of the lengths of the sorted words.

# Print the lengths.
