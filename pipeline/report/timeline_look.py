"""Colours of the timeline: Okabe and Ito's, told apart with every common colour blindness."""

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
RED, PURPLE, SKY, GREY = "#D55E00", "#CC79A7", "#56B4E9", "#6E6E6E"
INK, FAINT, PALE = "#222222", "#DDDDDD", "#E8EEF2"
