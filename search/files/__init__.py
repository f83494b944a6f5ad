"""The files of trials: in a folder, or in a bucket that machines share."""
