"""Sample data of workload `books`."""

from pathlib import Path

import numpy as np

USERS, BOOKS, GENRES = 400, 300, 8
RATINGS_A_USER = 40


def write_sample(path: Path, *, users: int = USERS, seed: int = 7) -> None:
    """Write a CSV of `users` readers with 40 ratings each, no book twice, reproducible by `seed`.

    Each of 300 books has one of 8 genres and a popularity of 1 / rank^0.7 (ranks are drawn); each reader likes two
    genres. A reader picks books without replacement with a probability in proportion to popularity, five times as much
    in a liked genre, and gives 4.4 stars to a liked genre and 2.9 to another, plus normal noise of 0.8, rounded and
    cut to 1 to 5. So what is popular is a fair guess, and what a reader's genres have is a better one.
    """
    generator = np.random.default_rng(seed)
    genres = generator.integers(0, GENRES, BOOKS)
    popularity = (1.0 + generator.permutation(BOOKS)) ** -0.7
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("user_id,book_id,rating\n")
        for user in range(1, users + 1):
            is_liked = np.isin(genres, generator.choice(GENRES, 2, replace=False))
            chances = popularity * np.where(is_liked, 5.0, 1.0)
            books = generator.choice(BOOKS, RATINGS_A_USER, replace=False, p=chances / chances.sum())
            stars = np.where(is_liked[books], 4.4, 2.9) + 0.8 * generator.normal(size=RATINGS_A_USER)
            for book, rating in zip(books, np.clip(np.rint(stars), 1, 5).astype(int), strict=True):
                file.write(f"{user},{book + 1},{rating}\n")
