"""What is learnt: losses, mixing, distillation, and how an answer is judged."""
