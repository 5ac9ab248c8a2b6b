"""Heavy users: what a model learns of items from clicks that are mostly theirs, against what all users want.

    python benchmarks/run.py systems/users

The simulator's world of 1,000 users and 200 items, 60,000 slates of 5 items in random order, all of them looked at. A user's
offset in the log odds of a click has a deviation of 2 and correlates by 0.8 with the first of the user's factors: the tenth of
the users who click most give many times the clicks of an average one, and have a taste of their own. The model is one list
for all, whose best order is by the mean relevance over users: the query tower sees the user's factors, but a block of width 1
without them would do, so its vectors have one number and a constant. It is judged by the true relevance.

    naive    clicks as they are
    users    UserDebiasing()

NDCG@10 is the mean over users, each counting once. The rate that `UserDebiasing` gives each user is compared with the user's
true rate of clicks over all items.
"""
