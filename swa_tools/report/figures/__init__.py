"""The figures, one module each: what is drawn, and the sentence that says what there is to see."""
