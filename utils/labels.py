"""Labels of heart masks, in every file and in every network."""

STRUCTURES = {"RV": 1, "MYO": 2, "LV": 3}
LABELS = {0: "background"} | {label: name for name, label in STRUCTURES.items()}
