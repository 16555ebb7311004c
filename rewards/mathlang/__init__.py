"""Reading mathematics as answers write it: text to tokens, tokens to a frozen tree, and the values of a tree modulo a
prime, as exact fractions, and in many digits. Nothing here evaluates a text, and nothing is computed whose size is not
bounded beforehand.
"""
