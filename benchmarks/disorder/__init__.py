"""Is anything wrong ever stored, or anything stored damaged unseen? Every command under every kind of mishap."""
