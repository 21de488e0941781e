"""One small seeded trainer, for the worlds and the published systems that need a trained model."""

from conceptlab.train.cache import Trained, trained
from conceptlab.train.schedule import Schedule
from conceptlab.train.token_batch import TokenBatch, masked_loss
from conceptlab.train.trainer import Loss, Training, train_model

__all__ = ["Loss", "Schedule", "TokenBatch", "Trained", "Training", "masked_loss", "train_model", "trained"]
