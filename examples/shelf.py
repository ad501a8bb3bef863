class Shelf:
    """Books in the order in which they were put there."""

    def __init__(self):
        self.titles = []

    def put(self, title):
        self.titles.append(title)

    def newest(self):
        return self.titles[-1]


shelf = Shelf()
shelf.put("Emma")
shelf.put("Persuasion")
print(shelf.)
