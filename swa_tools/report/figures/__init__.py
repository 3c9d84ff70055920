"""The figures, one module each: what is drawn, and the sentence that says what is to be seen."""
