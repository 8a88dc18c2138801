"""What would a larger model reach?"""
