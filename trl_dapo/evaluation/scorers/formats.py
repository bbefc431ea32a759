r"""
What a prompt must ask for, so that a scorer finds the answer.
"""

ANSWER_FORMATS = {
    "dapo_math": (
        "Think step by step. The last line of your response must be of the form Answer: $Answer (without quotes), "
        "where $Answer is the final answer alone: no units, no full stop, no formatting."
    ),
    "math_verify": r"Think step by step, and put your final answer within \boxed{}.",
    "boxed": r"Think step by step, and put your final answer within \boxed{}.",
    "exact": "Reply with the answer alone, and nothing else.",
    "number": "Think step by step, and end your response with the final answer as one number, after ####.",
    "multiple_choice": (
        "Think step by step. The last line of your response must be of the form Answer: $LETTER (without quotes), "
        "where $LETTER is the letter of one of the choices."
    ),
    "reasoning_gym": "Think step by step, and write your final answer between <answer> and </answer>.",
}
