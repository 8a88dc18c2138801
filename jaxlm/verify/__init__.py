"""Does it compute what it should?"""
