"""What a person looks at: one page with pictures, of one run or several."""
