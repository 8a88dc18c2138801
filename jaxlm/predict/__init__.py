"""What would a larger one reach?"""
