"""Workload `books`: which books a reader may like next, from ratings."""

from core.contract import Column, Key, Monitored, Ranking, Route
from core.policies import DriftPolicy
from workloads.declaration import GatePolicy, Schedule, SplitPolicy, Workload
from workloads.parameters import RANKING

WORKLOAD = Workload(
    name="books",
    description="Books that a reader has not rated yet, best first",
    kind="ranking",
    columns=(
        Column(name="user_id", dtype="integer", description="Reader", minimum=0),
        Column(name="book_id", dtype="integer", description="Book", minimum=0),
        Column(name="rating", dtype="integer", unit="stars", minimum=1, maximum=5),
        Column(name="event_id", dtype="text", description="Sender's own name of the event", is_nullable=True),
        Column(name="rated_at", dtype="time", description="Time of the rating, UTC", is_nullable=True),
    ),
    # Every value that is there is the key: the same event twice is one, another rating of the same book another.
    key=Key(entity="user_id"),
    target="rating",
    features=("book_id", "rating"),
    steps="history",
    ranking=Ranking(liked_from=4, time="rated_at", most=100),
    model="workloads.ranking_model:build_model",
    sample="workloads.books.sample:write_sample",
    parameters=RANKING,
    # It moves when readers change, when the catalogue outgrows the version, and when histories cannot be read.
    monitored=(Monitored(name="mean_rating", column="rating", transform="mean_of_history", unit="stars"),),
    routes=(
        Route(path="/api/v1/interactions", codec="observations"),
        Route(path="/api/v1/recommendations/train", codec="training", role="administrator"),
        Route(
            path="/api/v1/recommendations/{user}",
            method="GET",
            codec="history",
            answer={
                "user_id": "$user",
                "recommendations": "$items",
                "source": "$source",
                "history": "$history",
                "model": "$model_uri",
                "prediction_id": "$prediction_id",
            },
        ),
    ),
    # Events train nothing when they come.
    schedule=Schedule("0 0 * * *", "UTC"),
    split=SplitPolicy(validation_share=0.05, holdout_share=0.2),
    gate=GatePolicy(metric="ndcg_loss", minimum_rows=100),
    drift=DriftPolicy(minimum_rows=100),
)
